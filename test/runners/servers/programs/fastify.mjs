import Fastify from 'fastify'

const fastify = Fastify({ logger: false })
const large = Buffer.alloc(Number(process.env.LARGE), 'x')
fastify.get('/', async () => `hello ${process.pid}`)
fastify.get('/slow', async () => {
  await new Promise(resolve => setTimeout(resolve, 700))
  return 'slow'
})
fastify.post('/echo', async request => request.body)
fastify.get('/large', (_request, reply) => reply.send(large))
await fastify.listen({ port: Number(process.env.PORT) })
