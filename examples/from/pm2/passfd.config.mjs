// passfd.config.mjs
export default {
  name: 'shop',
  program: 'server.mjs',
  workers: 2,
  stopTimeout: '5s',
  maxRss: '300M'
}
