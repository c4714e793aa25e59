// As pm2's documentation asks for: the program itself closes its server at SIGINT
const express = require('express')

const app = express()
const large = Buffer.alloc(Number(process.env.LARGE), 'x')
app.use(express.json({ limit: '1mb' }))
app.get('/', (_request, response) => response.send(`Hello World! ${process.pid}`))
app.get('/slow', (_request, response) => setTimeout(() => response.send('slow'), 700))
app.post('/echo', (request, response) => response.json(request.body))
app.get('/large', (_request, response) => response.send(large))
const server = app.listen(process.env.PORT)
process.on('SIGINT', () => server.close(() => process.exit(0)))
