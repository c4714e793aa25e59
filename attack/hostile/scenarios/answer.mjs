import http from 'node:http'

/** Resolves to the status of the answer at a Unix socket. */
export function answerOf(socketPath) {
  return new Promise((resolve, reject) => {
    http
      .get({ socketPath, agent: false }, response =>
        response
          .resume()
          .on('end', () => resolve(response.statusCode))
          .on('error', reject)
      )
      .on('error', reject)
  })
}
