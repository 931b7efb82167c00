// Browsers start no worker from a page on the disk (file://), and the search is one. There this stands in for it: the same script
// in a hidden frame. Elsewhere it does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise(resolve => {
        document.addEventListener("DOMContentLoaded", resolve)
        if (document.readyState !== "loading") resolve()
      }).then(() => this.start(new URL(url, location.href)))
    }

    start(url) {
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...scripts) => scripts.reduce(
        (before, script) => before.then(() => this.load(new URL(script, url))), Promise.resolve()
      )
      return this.load(url)
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script")
        Object.assign(script, { src: url, onload: resolve, onerror: reject })
        this.frame.contentDocument.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
