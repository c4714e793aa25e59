/** The files below a folder, as paths from there; none if it does not exist. Not those in node_modules. */
export function filesIn(folder: string): string[]
