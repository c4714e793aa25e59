import type { Server } from 'node:net'

export function serverOf(kind: 'http' | 'https' | 'http2' | 'http2s' | 'raw', ending?: AbortSignal): Server
