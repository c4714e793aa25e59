const { createServer } = require('node:http')
const { text } = require('node:stream/consumers')

const large = Buffer.alloc(Number(process.env.LARGE), 'x')
createServer(async (request, response) => {
  if (request.url === '/slow') setTimeout(() => response.end('slow'), 700)
  else if (request.url === '/echo') response.end(await text(request))
  else response.end(request.url === '/large' ? large : `hello ${process.pid}`)
}).listen(process.env.PORT)
