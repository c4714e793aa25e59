// user.mjs
import { connect } from 'node:net'
import { createInterface } from 'node:readline'

const shell = connect('shell.sock')
process.on('SIGUSR2', () => shell.write('n=$((n + 1)); echo; echo "process $$ says that n is $n"\n'))
process.on('SIGTERM', () => shell.write('exit\n'))
shell.write('stty -echo; n=0; echo; echo "process $$ is a shell"\n')
for await (const line of createInterface(shell)) if (line.startsWith('process')) console.log(line)
console.log('the shell has ended')
