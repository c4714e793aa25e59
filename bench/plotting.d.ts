/** What plots.ts uses of packages that are installed only when plots are drawn: sources are checked without them. */
declare module 'vega' {
  export function parse(spec: unknown): unknown
  export class View {
    constructor(runtime: unknown, options: { renderer: 'none' })
    toSVG(): Promise<string>
    finalize(): void
  }
}

declare module 'vega-lite' {
  export type TopLevelSpec = Record<string, unknown>
  export function compile(spec: TopLevelSpec): { spec: unknown }
}
