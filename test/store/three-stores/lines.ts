/** The lines of the table in docs/store.md. */
export const LINES = [
  'who can use it',
  'access by default',
  'names',
  'a value beside it',
  'several descriptors together',
  'gets it back',
  'a taken descriptor comes back if the taker dies',
  'expiry',
  'removal at hang-up',
  'listing',
  'watching',
  'bounds',
  'all of it to another store',
  'survives the restart of a service',
  'survives a stop of the service',
  'survives its own replacement',
  'survives its own death'
] as const

export type Line = (typeof LINES)[number]

/** For each line: what the table says of a store, and a test that shows it. */
export type Cases<Body> = Readonly<Record<Line, { readonly says: string; readonly shows: Body }>>
