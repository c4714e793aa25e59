import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"Services of systemd","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/systemd/README.md","filePath":"files/examples/systemd/README.md"}');
const _sfc_main = { name: "files/examples/systemd/README.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="services-of-systemd" tabindex="-1">Services of systemd <a class="header-anchor" href="#services-of-systemd" aria-label="Permalink to &quot;Services of systemd&quot;">​</a></h1><p>Complete units, each with its program. Copy this folder to <code>/srv/web</code>, run <code>npm install passfd</code> there, and copy the units that you want to <code>/etc/systemd/system</code> (those of <code>user.service</code>: to <code>~/.config/systemd/user</code>). <a href="./../../../systemd.html">docs/systemd.md</a> explains them.</p><table tabindex="0"><thead><tr><th>unit</th><th>program</th><th>shows</th></tr></thead><tbody><tr><td><code>plain.service</code></td><td><code>server.mjs</code></td><td>readiness, a status, the watchdog</td></tr><tr><td><code>activated.socket</code>, <code>activated.service</code></td><td><code>counter.mjs</code></td><td>systemd opens the port, so no client is refused; a counter outlives the process, even KILL</td></tr><tr><td><code>prefork.service</code></td><td><code>supervisor.mjs</code></td><td>four workers; <code>systemctl reload</code> replaces them</td></tr><tr><td><code>takeover.socket</code>, <code>takeover.service</code></td><td><code>supervisor.mjs</code></td><td><code>systemctl reload</code> replaces the supervisor, too: for a new Node or a new passfd</td></tr><tr><td><code>store.service</code></td><td><code>passfd store</code></td><td>descriptors by name, for programs that come and go; <code>systemctl reload</code> replaces the store, with all that it holds</td></tr><tr><td><code>user.service</code></td><td><code>server.mjs</code></td><td>a user&#39;s own service: <code>systemctl --user enable --now user</code>; from boot on after <code>loginctl enable-linger</code></td></tr></tbody></table></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/systemd/README.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const README = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  README as default
};
