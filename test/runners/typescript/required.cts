import passfd = require('passfd')
import prefork = require('passfd/prefork')

export const kind: string = passfd.Descriptor.openSync('/etc/hostname').kind
export const Supervisor: typeof prefork.Supervisor = prefork.Supervisor
