export function countTap(text: string): {
  passed: number
  failed: number
  skipped: number
  names: string[]
  fault: string | undefined
}
