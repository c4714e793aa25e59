// client.mjs
import { WebSocket } from 'ws'

const socket = new WebSocket('ws://127.0.0.1:3000/')
socket.on('open', () => console.log('open'))
socket.on('message', text => console.log(`${text}`))
socket.on('close', code => console.log(`closed: ${code}`))
process.on('SIGUSR2', () => socket.send('hello'))
process.on('SIGTERM', () => socket.close(1000))
