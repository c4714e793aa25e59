/** Checks of values by any Standard Schema (zod, valibot, arktype, …). */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { isThenable } from './brand.ts'
import { PassfdError, textOf } from './errors.ts'

type Checked = { value: unknown } | { error: PassfdError }

/** The value as the schema gives it, or ERR_PASSFD_SCHEMA whose `data` lists the issues. A promise only if the schema gives one. */
export function validate(schema: StandardSchemaV1, value: unknown): Checked | Promise<Checked> {
  try {
    const result = schema['~standard'].validate(value)
    return isThenable(result) ? later(result) : outcome(result)
  } catch (error) {
    return failed(error)
  }
}

/** `await` takes the program's object for what it is, even if its `then` or `constructor` throws. It never rejects. */
async function later(result: PromiseLike<StandardSchemaV1.Result<unknown>>): Promise<Checked> {
  try {
    return outcome(await result)
  } catch (error) {
    return failed(error)
  }
}

function outcome(result: StandardSchemaV1.Result<unknown>): Checked {
  if (result.issues === undefined) return { value: result.value }
  const issues = Array.from(result.issues, ({ message, path = [] }) => ({
    message: String(message),
    path: Array.from(path, key => String(typeof key === 'object' ? key.key : key))
  }))
  const text = issues
    .map(({ message, path }) => (path.length === 0 ? message : `${path.join('.')}: ${message}`))
    .join('; ')
  return { error: new PassfdError('SCHEMA', { issues: text }, { data: { issues } }) }
}

function failed(cause: unknown): Checked {
  return {
    error: new PassfdError('SCHEMA', { issues: textOf(cause) }, { cause })
  }
}
