/** The servers, each as its own documentation writes it. Their port is PORT, or an option of theirs. */
export const LARGE = 4_000_000

const own = { small: '/', slow: '/slow', post: '/echo', large: '/large' }

/**
 * `program` and `args`: as `passfd serve` gets them. `pm2`: where pm2 needs something else, or false if its cluster mode can't run it. `folder`: in
 * programs/. `build`: a command, and the file that is there when it has run. `options`: further ones of passfd. `clients`: beside those of HTTP.
 */
export const SERVERS = {
  express: { program: ['express.cjs'], paths: own },
  fastify: { program: ['fastify.mjs'], paths: own },
  koa: { program: ['koa.cjs'], paths: own },
  nest: {
    program: ['nest/dist/main.js'],
    paths: own,
    build: { command: ['tsc', '-p', 'nest'], makes: 'nest/dist/main.js' }
  },
  'socket.io': {
    program: ['socket.io.cjs'],
    paths: { small: '/', slow: '/slow' },
    options: ['--sticky', 'socket.io', '--stop-timeout', '3s'],
    clients: 'socket.io'
  },
  ws: {
    program: ['ws.mjs'],
    paths: { small: '/', slow: '/slow' },
    options: ['--stop-timeout', '3s'],
    clients: 'ws'
  },
  next: {
    program: ['next', 'start', '-p', '$PORT'],
    folder: 'next',
    paths: own,
    build: { command: ['next', 'build'], makes: 'next/.next/BUILD_ID' },
    pm2: { script: '../../node_modules/next/dist/bin/next', args: ['start', '-p', '$PORT'] }
  },
  'json-server': {
    // Not POST: each worker would write the file
    program: ['json-server', '--port', '$PORT', '--quiet', 'json-server.json'],
    paths: { small: '/posts' },
    pm2: {
      script: '../node_modules/json-server/lib/cli/bin.js',
      args: ['--port', '$PORT', '--quiet', 'json-server.json']
    }
  },
  'http-server': {
    program: ['http-server', 'http-server', '-p', '$PORT', '-a', '127.0.0.1', '-s'],
    paths: { small: '/', large: '/large.bin' },
    pm2: {
      script: '../node_modules/http-server/bin/http-server',
      args: ['http-server', '-p', '$PORT', '-a', '127.0.0.1', '-s']
    }
  },
  'hono, by tsx': {
    program: ['--import', 'tsx', 'hono.ts'],
    paths: own,
    pm2: { script: 'hono.ts', node_args: '--import tsx' }
  },
  'npm start': { program: ['--', 'npm', 'start'], folder: 'npm-start', paths: own, pm2: false },
  'vite preview': {
    program: ['vite', 'preview', '--port', '$PORT', '--strictPort', '--host', '127.0.0.1'],
    folder: 'vite',
    paths: { small: '/' },
    build: { command: ['vite', 'build'], makes: 'vite/dist/index.html' },
    pm2: {
      script: '../../node_modules/vite/bin/vite.js',
      args: ['preview', '--port', '$PORT', '--strictPort', '--host', '127.0.0.1']
    }
  },
  // What pm2's documentation asks of a program, for a fair comparison
  'express, SIGINT': { program: ['express-sigint.cjs'], paths: own }
}
