export interface Group {
  text: string
  pages: { path: string; title: string }[]
}

export function groups(titles: Map<string, string>): Group[]
