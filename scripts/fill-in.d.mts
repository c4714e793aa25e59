export function fillIn(path: string, parts: Record<string, string>): void
