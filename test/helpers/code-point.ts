import fc from 'fast-check'

/** Any code point but the halves of surrogate pairs, as fast-check's 'binary' is, which takes two seconds to build in each process. */
export const codePoint: fc.Arbitrary<string> = fc
  .integer({ min: 0, max: 0x10ffff - 0x800 })
  .map(number => String.fromCodePoint(number < 0xd800 ? number : number + 0x800))
