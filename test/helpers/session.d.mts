export interface Block {
  language: string
  info: string
  code: string
  line: number
  name: string | undefined
}

export interface Typed {
  text: string
  /** Of a command in the foreground. */
  code: number | string | undefined
  printed: string[]
  missing: string[]
  others: string[]
}

export function blocksOf(text: string): Block[]
export function play(
  folder: string,
  text: string,
  block: Block,
  options?: { seconds?: number; env?: Record<string, string> }
): Promise<Typed[]>
