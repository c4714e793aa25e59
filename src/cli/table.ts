/** Tables of text. */

/** A column: its title, and whether its values are numbers, which stand at the right. */
export type Column = readonly [title: string, right?: 'right']

/** The lines of a table, with two spaces between the columns. Values must have no colours and no wide characters. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string[] {
  const widths = columns.map(([title], at) => Math.max(title.length, ...rows.map(row => (row[at] ?? '').length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, at) => (columns[at]![1] === 'right' ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!)))
      .join('  ')
      .trimEnd()
  return [line(columns.map(([title]) => title)), ...rows.map(line)]
}
