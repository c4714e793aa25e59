/** Programs in TypeScript. */

/** Options with which Node runs sources of this project as they were compiled for the tests: tsx would take a second of each process. */
export const compiled: string[] = ['--import', new URL('../../scripts/use-compiled.mjs', import.meta.url).href]
