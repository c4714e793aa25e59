export interface Pages {
  /** The titles of the pages of docs/ and of the root, by their paths in the repository. */
  titles: Map<string, string>
  /** Where each page, and each file that one links, is on the site. */
  places: Map<string, string>
}

export function writePages(root: string, to: string): Pages
export function pagesBelow(folder: string): string[]
