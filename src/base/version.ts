/** The package's version, which the hello contains; a test compares it with package.json. */
export const version = '0.1.0'
