/** The package's version, as the hello tells it; a test compares it with package.json. */
export const version = '0.1.0'
