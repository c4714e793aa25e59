// ecosystem.config.cjs
module.exports = {
  apps: [{ name: 'shop', script: 'server.mjs', instances: 2, kill_timeout: 5000, max_memory_restart: '300M' }]
}
