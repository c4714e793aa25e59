import { readFileSync } from 'node:fs'
import { isSeen, ownUnit, unitIn, unitOf } from '../../src/os/unit.ts'
import { test } from '../helpers/test.ts'

test('the unit of a process, as its control groups have it', t => {
  const texts: [text: string, unit: string | undefined][] = [
    ['0::/system.slice/web.service\n', 'web.service'],
    ['0::/user.slice/user-1000.slice/session-3.scope\n', 'session-3.scope'],
    ['0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n', 'web.service'],
    ['0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-terminal-7.scope\n', 'app-terminal-7.scope'],
    // A service may have groups of its own below
    ['0::/system.slice/web.service/workers\n', 'web.service'],
    ['0::/system.slice/docker-0a1b.scope\n', 'docker-0a1b.scope'],
    // Both versions: systemd is in one of them
    ['3:cpu:/\n1:name=systemd:/system.slice/web.service\n0::/system.slice/web.service\n', 'web.service'],
    ['3:cpu:/other.service\n1:name=systemd:/system.slice/web.service\n0::/\n', 'web.service'],
    ['3:cpu:/other.service\n1:name=systemd:/system.slice/web.service\n', 'web.service'],
    // A container that sees its own groups only
    ['0::/\n', undefined],
    ['0::/web.service.d/a:b\n', undefined],
    ['', undefined]
  ]
  for (const [text, unit] of texts) t.is(unitIn(text), unit, text)
  t.is(unitOf(process.pid), unitIn(readFileSync('/proc/self/cgroup', 'utf8')))
  t.is(unitOf(0x7fffffff), undefined)
})

test('whose process this one is: what systemd has started, or what notifies', t => {
  const unit = unitOf('self')
  t.is(unit, unitOf(process.pid))
  t.is(ownUnit({}).unit, unit)
  t.false(ownUnit({}).own)
  t.false(ownUnit({ NOTIFY_SOCKET: '', SYSTEMD_EXEC_PID: `${process.ppid}`, INVOCATION_ID: 'x' }).own)
  t.true(ownUnit({ NOTIFY_SOCKET: '/run/systemd/notify' }).own)
  t.true(ownUnit({ SYSTEMD_EXEC_PID: `${process.pid}` }).own)
  t.true(isSeen(process.pid))
  t.false(isSeen(0x7fffffff))
  t.false(isSeen(0)) // of another PID namespace
})
