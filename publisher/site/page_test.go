package site

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// pasted fills the page with as much as it shows at once.
func pasted(t *testing.T) string {
	return printers[0].print(hosts(t)["two-1080-ti-and-2060"])
}

// TestLayout shows the page on small screens and on large ones: nothing is wider than the screen, and
// nothing moves while it loads.
func TestLayout(t *testing.T) {
	b, doc := startBrowser(t), document(t)
	for _, as := range []look{{width: 320}, {width: 360}, {width: 360, dark: true}, {width: 768}, {width: 1280}, {width: 1280, dark: true}, {width: 360, noScript: true}, {width: 1280, noScript: true}} {
		page := b.open(t, doc, as)
		var shifts *float64
		if page.eval(t, "window.shifts ?? null", &shifts); !as.noScript && (shifts == nil || *shifts != 0) {
			t.Errorf("%+v: the layout shifts by %v", as, shifts)
		}
		for _, text := range []string{"", pasted(t), "rtx 6000"} {
			if !as.noScript {
				page.ask(t, text)
			}
			page.eval(t, `for (const d of document.querySelectorAll("details")) d.open = true`, nil)
			var wide []string
			page.eval(t, `[...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && getComputedStyle(e).position !== "absolute").map(e => e.tagName + " " + e.className)
	.concat(document.documentElement.scrollWidth > innerWidth ? ["it scrolls"] : [])`, &wide)
			if len(wide) > 0 {
				t.Errorf("%+v: too wide: %q", as, wide)
			}
		}
		if noise := page.noise(); noise != nil {
			t.Errorf("%+v: the browser says %q", as, noise)
		}
	}
}

// A test of the layout that could not fail would be none.
func TestLayoutCanFail(t *testing.T) {
	doc := bytes.Replace(document(t), []byte("</main>"), []byte(`<p>x</p><script>1</script><img src="https://example.org/x.png"></main>`), 1)
	doc = bytes.Replace(doc, []byte("<h1>"), []byte(`<h1 style="width:2000px">`), 1)
	page := startBrowser(t).open(t, doc, look{width: 360})
	if noise := strings.Join(page.noise(), "\n"); strings.Count(noise, "violates the following Content Security Policy") < 3 {
		t.Errorf("the browser says %q", noise)
	}
}

// TestKeyboard goes through the page by the key Tab: it comes to everything that can be used, in the
// order of the page, and shows where it is.
func TestKeyboard(t *testing.T) {
	page := startBrowser(t).open(t, document(t), look{width: 1280})
	page.ask(t, pasted(t))
	const usable = `[...document.querySelectorAll("a[href], button, textarea, summary")].filter(e => e.checkVisibility())`
	var want, got []string
	const name = `(e => e.tagName + " " + (e.id || e.textContent).trim().slice(0, 30))`
	page.eval(t, usable+".map("+name+")", &want)
	for range want {
		page.press(t, "Tab", 9, 0)
		var at struct {
			Name    string
			Outline float64
		}
		page.eval(t, `(() => { const e = document.activeElement, style = getComputedStyle(e);
	return {name: `+name+`(e), outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)}; })()`, &at)
		if at.Outline < 2 {
			t.Errorf("%s has an outline of %v px", at.Name, at.Outline)
		}
		got = append(got, at.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 30 {
		t.Errorf("(-the page +Tab):\n%s", diff)
	}
	// What can be chosen is chosen by a key, and what else was pasted stays.
	for text, want := range map[string]string{
		"rtx 6000": "Quadro RTX 6000: compute capability 7.5.",
		"| NVIDIA-SMI 525.105.17   Driver Version: 525.105.17   CUDA Version: 12.0     |\n|   0  NVIDIA RTX 6000...  Off  | 00000000:01:00.0 Off |                  N/A |\n": "Quadro RTX 6000: compute capability 7.5. Driver 525.105.17 is new enough.",
	} {
		page.ask(t, text)
		page.eval(t, `document.querySelector("#said button").focus()`, nil)
		page.do(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"})
		var chosen [2]string
		page.eval(t, `[document.getElementById("said").textContent, document.querySelector("#result .card")?.dataset.bundle ?? ""]`, &chosen)
		if diff := cmp.Diff([2]string{want, "llcuda-bins-sm75"}, chosen); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// contrast computes that of every text with what is behind it, as https://www.w3.org/TR/WCAG21/ defines it.
const contrast = `(() => {
	const parts = color => color.match(/[\d.]+/g).map(Number);
	const light = color => { const [r, g, b] = parts(color).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if ((parts(c)[3] ?? 1) > 0) return c; } return "rgb(255,255,255)"; };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const list = [];
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement;
		if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, style, template, title")) continue;
		list.push([ratio(getComputedStyle(e).color, behind(e)), e.tagName + " " + walk.currentNode.data.trim().slice(0, 30)]);
	}
	const box = document.getElementById("gpu");
	if (box.checkVisibility()) list.push([ratio(getComputedStyle(box, "::placeholder").color, behind(box)), "placeholder"], [ratio(getComputedStyle(box).borderTopColor, behind(box)) * 1.5, "the box's border, of which 3 is asked"]);
	for (const bar of document.querySelectorAll(".newest")) list.push([ratio(getComputedStyle(bar).fill, behind(bar)) * 1.5, "a bar, of which 3 is asked"]);
	return list;
})()`

func TestContrast(t *testing.T) {
	b, doc := startBrowser(t), document(t)
	for _, as := range []look{{width: 1280}, {width: 1280, dark: true}, {width: 360}, {width: 360, dark: true}, {width: 1280, noScript: true}} {
		page := b.open(t, doc, as)
		for _, text := range []string{pasted(t), "GTX 680", "rtx 6000", "RTX 5090"} {
			if !as.noScript {
				page.ask(t, text)
			}
			page.eval(t, `for (const d of document.querySelectorAll("details")) d.open = true`, nil)
			var all [][2]any
			page.eval(t, contrast, &all)
			if len(all) < 200 {
				t.Errorf("%+v: only %d texts", as, len(all))
			}
			for _, one := range all {
				if ratio := one[0].(float64); ratio < 4.5 {
					t.Errorf("%+v: %v has a contrast of %.2f", as, one[1], ratio)
				}
			}
		}
	}
	// The computation finds text that is too pale.
	page := b.open(t, bytes.Replace(doc, []byte("--soft:#585d52"), []byte("--soft:#888888"), 1), look{width: 1280})
	if noise := page.noise(); len(noise) != 1 {
		t.Errorf("a style sheet that was changed is taken: %q", noise)
	}
	page.eval(t, `document.body.style.setProperty("color", "#888888")`, nil)
	var all [][2]any
	page.eval(t, contrast, &all)
	low := 0
	for _, one := range all {
		if one[0].(float64) < 4.5 {
			low++
		}
	}
	if low == 0 {
		t.Error("gray on white has enough contrast")
	}
}

// TestWithoutScript reads the page as a browser without JavaScript shows it.
func TestWithoutScript(t *testing.T) {
	page := startBrowser(t).open(t, document(t), look{width: 1280, noScript: true})
	var text string
	page.eval(t, `for (const d of document.querySelectorAll("details")) d.open = true; document.body.innerText`, &text)
	r := past(t)[0].Release
	for _, a := range append(r.Bundles(), r.Runtimes()...) {
		for _, want := range []string{a.Stem(), a.SHA256} {
			if !strings.Contains(text, want) {
				t.Errorf("it does not show %s", want)
			}
		}
	}
	for _, want := range []string{"525.60.13", "550.54.14", "580.65.06", "GeForce RTX 3090 Ti", "cosign verify-blob", "install.sh | sh", "pp512"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not show %q", want)
		}
	}
	for _, bad := range []string{"Find yours", "Copy"} {
		if strings.Contains(text, bad) {
			t.Errorf("it shows %q, which does nothing", bad)
		}
	}
}

// TestHostileNames has markup, scripts and the ends of both in every text that a manifest may have.
func TestHostileNames(t *testing.T) {
	const attack = `</script></style><script>window.hit=1</script><img src=x onerror="window.hit=1">"'&{{.}}` + "`${hit}`"
	all := past(t)
	r := all[0].Release
	for i := range r.Assets {
		if a := &r.Assets[i]; a.Kind == manifests.KindBundle {
			a.GPUs, a.Architecture = []string{attack, "\u202eRTL"}, attack
		}
	}
	r.LlamaCPP.Version, r.LlamaCPP.Commit = attack, attack
	b := *all[0].Benchmark
	b.GPU = attack
	b.Tests = []manifests.BenchmarkTest{b.Tests[0]}
	b.Tests[0].Model = attack
	doc, err := Page(Release{r, &b}, all[1:], Options{Downloads: "javascript:window.hit=1//" + attack, Source: "https://example.org/" + attack, Identity: attack, Issuer: attack})
	if err != nil {
		t.Fatal(err)
	}
	page := startBrowser(t).open(t, doc, look{width: 360})
	page.ask(t, attack)
	page.ask(t, "name, compute_cap, driver_version\n"+attack+", 8.6, 550.54.14\n")
	var got struct {
		Hit             bool
		Images, Scripts int
		Bad             []string
		Text            string
		Wide            bool
	}
	page.eval(t, `({hit: Boolean(window.hit), images: document.images.length, scripts: document.scripts.length, text: document.body.innerText, wide: document.documentElement.scrollWidth > innerWidth,
	bad: [...document.querySelectorAll("a")].map(a => a.protocol).filter(p => !["https:", "file:"].includes(p))})`, &got)
	if got.Hit || got.Images > 0 || got.Scripts != 3 || len(got.Bad) > 0 || got.Wide {
		t.Errorf("hit %t, %d images, %d scripts, links %q, too wide: %t", got.Hit, got.Images, got.Scripts, got.Bad, got.Wide)
	}
	if n := strings.Count(got.Text, attack); n < 10 {
		t.Errorf("the names are there %d times, as they are", n)
	}
	if noise := page.noise(); noise != nil {
		t.Errorf("the browser says %q", noise)
	}
	if strings.Contains(fmt.Sprintf("%s", doc), "ZgotmplZ</script") {
		t.Error("a script was replaced")
	}
}
