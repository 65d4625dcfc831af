package site

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A browser is Debian's Chromium without a window, which takes commands by a pipe.
// https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	to     io.Writer
	from   *bufio.Reader
	calls  int
	events []event
}

// An event is what the browser tells of its own.
type event struct {
	Method string
	Params struct {
		Request struct{ URL string }
		Entry   struct{ Text string }
	}
}

// startBrowser starts one for a test.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: make packages installs it", err)
	}
	hear, speak, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, answer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	profile := t.TempDir()
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
		"--disable-component-update", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir="+profile, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile)
	cmd.ExtraFiles = []*os.File{hear, answer} // 3 and 4, as the browser expects them
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hear.Close()
	answer.Close()
	b := &browser{to: speak, from: bufio.NewReader(answers)}
	t.Cleanup(func() {
		b.call(t, "", "Browser.close", nil, nil)
		if err := cmd.Wait(); err != nil {
			t.Errorf("chromium: %v", err)
		}
		speak.Close()
		answers.Close()
	})
	return b
}

// call has the browser do something, and reads what comes of it.
func (b *browser) call(t *testing.T, session, method string, params, result any) {
	t.Helper()
	b.calls++
	message := map[string]any{"id": b.calls, "method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	data, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.to.Write(append(data, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		data, err := b.from.ReadBytes(0)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Error  *struct{ Message string }
			Result json.RawMessage
		}
		data = data[:len(data)-1]
		if err := json.Unmarshal(data, &answer); err != nil {
			t.Fatal(err)
		}
		switch {
		case answer.ID == 0:
			var e event
			if err := json.Unmarshal(data, &e); err != nil {
				t.Fatal(err)
			}
			b.events = append(b.events, e)
			continue
		case answer.ID != b.calls:
			continue
		case answer.Error != nil:
			t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result == nil {
			return
		}
		if err := json.Unmarshal(answer.Result, result); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// A tab shows one document.
type tab struct {
	*browser
	session, address string
}

// A look is how a document is shown.
type look struct {
	width    int
	dark     bool
	noScript bool
}

// open shows a document until it is loaded and drawn.
func (b *browser) open(t *testing.T, document []byte, as look) *tab {
	t.Helper()
	file := filepath.Join(t.TempDir(), "index.html")
	if err := os.WriteFile(file, document, 0o644); err != nil {
		t.Fatal(err)
	}
	b.events = nil
	var target struct{ TargetID string }
	b.call(t, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call(t, "", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	page := &tab{b, attached.SessionID, "file://" + file}
	for _, domain := range []string{"Page.enable", "Network.enable", "Log.enable", "Runtime.enable"} {
		page.do(t, domain, nil)
	}
	scheme := "light"
	if as.dark {
		scheme = "dark"
	}
	page.do(t, "Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
	page.do(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": as.width, "height": 800, "deviceScaleFactor": 1, "mobile": false})
	if !as.noScript {
		page.do(t, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": shifts})
	}
	page.do(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": as.noScript})
	page.do(t, "Page.navigate", map[string]any{"url": page.address})
	page.await(t, "Page.loadEventFired")
	page.do(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": false}) // the document has had its chance
	page.do(t, "Runtime.evaluate", map[string]any{"expression": "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))", "awaitPromise": true})
	return page
}

// shifts counts the shifts of the layout.
const shifts = `window.shifts = 0;
new PerformanceObserver(list => { for (const entry of list.getEntries()) { window.shifts += entry.value; } }).observe({type: "layout-shift", buffered: true});`

func (p *tab) do(t *testing.T, method string, params any) {
	t.Helper()
	p.call(t, p.session, method, params, nil)
}

// await reads until the browser told of something.
func (p *tab) await(t *testing.T, method string) {
	t.Helper()
	for {
		for _, e := range p.events {
			if e.Method == method {
				return
			}
		}
		p.do(t, "Runtime.evaluate", map[string]any{"expression": "0"})
	}
}

// eval has the document compute something.
func (p *tab) eval(t *testing.T, script string, result any) {
	t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	p.call(t, p.session, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true}, &answer)
	if answer.ExceptionDetails != nil {
		t.Fatalf("%s\n%s", answer.ExceptionDetails.Exception.Description, script)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(answer.Result.Value, result); err != nil {
		t.Fatalf("%v: %s", err, answer.Result.Value)
	}
}

// press presses a key.
func (p *tab) press(t *testing.T, key string, code, modifiers int) {
	t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		p.do(t, "Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers})
	}
}

// A found is what the page answers to a text.
type found struct {
	Bundle, Through, Runtime, Lack string
	Bytes, All                     int64
	Said                           string
	Choices                        int
}

// ask types a text into the page's box.
func (p *tab) ask(t *testing.T, text string) found {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	var f found
	p.eval(t, fmt.Sprintf(`(() => {
	const box = document.getElementById("gpu");
	box.value = %s;
	box.dispatchEvent(new Event("input"));
	const card = document.querySelector("#result .card")?.dataset ?? {}, said = document.getElementById("said");
	return {bundle: card.bundle ?? "", through: card.through ?? "", runtime: card.runtime ?? "", bytes: Number(card.bytes ?? 0), all: Number(card.all ?? 0),
		lack: document.getElementById("result").dataset.lack ?? "", said: said.textContent, choices: said.querySelectorAll("button").length};
})()`, quoted), &f)
	return f
}

// noise is what the browser complained of, and the requests that the document made.
func (p *tab) noise() (list []string) {
	for _, e := range p.events {
		switch {
		case e.Method == "Network.requestWillBeSent" && e.Params.Request.URL != p.address:
			list = append(list, "request "+e.Params.Request.URL)
		case e.Method == "Log.entryAdded":
			list = append(list, "log "+e.Params.Entry.Text)
		case strings.HasPrefix(e.Method, "Runtime.exceptionThrown"):
			list = append(list, e.Method)
		}
	}
	return list
}
