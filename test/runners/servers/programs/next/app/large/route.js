export const dynamic = 'force-dynamic'

export function GET() {
  return new Response(new Uint8Array(Number(process.env.LARGE)).fill(120))
}
