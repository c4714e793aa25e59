export default () => globalThis.stopPassfd()
