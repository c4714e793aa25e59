const { text } = require('node:stream/consumers')
const Koa = require('koa')

const app = new Koa()
const large = Buffer.alloc(Number(process.env.LARGE), 'x')
app.use(async context => {
  if (context.path === '/slow') {
    await new Promise(resolve => setTimeout(resolve, 700))
    context.body = 'slow'
  } else if (context.path === '/echo') {
    context.body = JSON.parse(await text(context.req))
  } else context.body = context.path === '/large' ? large : `Hello Koa ${process.pid}`
})
app.listen(process.env.PORT)
