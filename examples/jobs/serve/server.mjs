// server.mjs
import express from 'express'

const app = express()
app.get('/', (request, response) => response.send('version 1\n'))
app.listen(3000)
