import { serve } from '@hono/node-server'
import { Hono } from 'hono'

// Node itself can't strip an enum, so this needs a compiler
enum Greeting {
  Hello,
  Welcome
}
const app = new Hono()
const large = new Uint8Array(Number(process.env.LARGE)).fill(120)
app.get('/', context => context.text(`${Greeting[Greeting.Welcome]} ${process.pid}`))
app.get('/slow', async context => {
  await new Promise(resolve => setTimeout(resolve, 700))
  return context.text('slow')
})
app.post('/echo', async context => context.json(await context.req.json()))
app.get('/large', context => context.body(large))
serve({ fetch: app.fetch, port: Number(process.env.PORT) })
