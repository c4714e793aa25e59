/** An empty array that holds its first element, or its first two, in little: what is pushed into `[]` makes room for 17. */
export function roomForOne<T>(): T[] {
  const array: (T | undefined)[] = [undefined]
  array.pop()
  return array as T[]
}
