/** The package's version, which the hello contains; a test compares it with package.json. Not of a literal type: that would change with each release. */
export const version: string = '0.1.0'
