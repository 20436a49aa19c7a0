//go:build linux

package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/pquerna/otp/totp"

	"picket.internal/integration/lab"
)

// browser is a real Chromium before a real coordinator. Screenshots go to the test's folder, and to $PICKET_SCREENSHOTS.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string
	dirs []string
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (apt-get install chromium)")
	}
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.WindowSize(1280, 900),
	}
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	b := &browser{t: t, ctx: ctx, base: base, dirs: []string{t.TempDir()}}
	if dir := os.Getenv("PICKET_SCREENSHOTS"); dir != "" {
		b.dirs = append(b.dirs, dir)
	}
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) open(url string) { b.t.Helper(); b.do(chromedp.Navigate(url)) }

func (b *browser) fill(id, text string) {
	b.t.Helper()
	b.do(chromedp.Clear(chromedp.ID(id)), chromedp.SendKeys(chromedp.ID(id), text))
}

// press clicks and waits for the page that follows.
func (b *browser) press(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		b.t.Fatalf("press %s: %v", selector, err)
	}
}

func (b *browser) text(selector string) string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS(selector)))
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// see checks what the page shows, and keeps a screenshot of it.
func (b *browser) see(shot string, texts ...string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, dir := range b.dirs {
		if err := os.WriteFile(filepath.Join(dir, shot+".png"), png, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	page := b.text("body")
	for _, want := range texts {
		if !strings.Contains(page, want) {
			b.t.Errorf("%s: the page does not show %q:\n%s", shot, want, page)
		}
	}
}

const main = "main button[type=submit]"

// setUp walks the setup pages and returns the recovery codes.
func (b *browser) setUp(link, login string) []string {
	b.t.Helper()
	b.open(link)
	b.see("1-invited", "first administrator")
	b.fill("login", login)
	b.press(main)
	key := strings.ReplaceAll(b.text("#secret"), " ", "")
	code, err := totp.GenerateCode(key, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	b.fill("password", secret)
	b.fill("confirm", secret)
	b.fill("code", code)
	b.see("2-setup", "authenticator app")
	b.press(main)
	b.see("3-recovery", "Keep these recovery codes")
	return strings.Fields(b.text("ul.recovery"))
}

func (b *browser) signIn(login, code string) {
	b.t.Helper()
	b.fill("login", login)
	b.fill("password", secret)
	b.fill("code", code)
	b.press(main)
}

// TestPagesInABrowser is the administrator's first day in a real browser: setup, sign-in with both factors, a node let in by the
// typed code, another denied, and the pages that show it.
func TestPagesInABrowser(t *testing.T) {
	n := newNetwork(t, true, policyFor(openPorts))
	b := newBrowser(t, n.coordinator.URL)
	codes := b.setUp(n.coordinator.Setup, "alice@example.com")
	if len(codes) != 10 {
		t.Fatalf("%d recovery codes", len(codes))
	}
	b.open(n.coordinator.Setup)
	b.see("4-setup-again", "setup link") // spent
	laptop := b.joinNode(n, "laptop", codes[0])
	b.denyNode(n)

	b.open(b.base + "/nodes")
	b.see("9-nodes", "laptop", "alice@example.com", n.address(laptop, false), "Online")
	bad := n.commit(strings.Replace(policyFor(openPorts), "group:dba\"]", "group:dbs\"]", 1))
	n.eventually("the commit is refused", func() error {
		out, err := n.coordinator.CLI(n.ctx, "policy", "status")
		if err == nil && !strings.Contains(out, bad) {
			err = context.DeadlineExceeded
		}
		return err
	})
	b.open(b.base + "/policy")
	b.see("10-policy", bad[:12], "line 5, column", "group:dbs", "did you mean")
	b.open(b.base + "/audit")
	b.see("11-audit", "node.")
	b.open(b.base + "/users")
	b.see("12-users", "alice@example.com")
}

// joinNode signs in on the way to a node's login page, types a wrong code, then the right one.
func (b *browser) joinNode(n *network, hostname, code string) *lab.Node {
	b.t.Helper()
	node, err := n.host(hostname).StartNode(n.ctx)
	n.must(err)
	j, err := node.Up(n.ctx, "--coordinator", n.coordinator.Join, "--hostname", hostname)
	n.must(err)
	b.open(j.URL)
	b.see("5-sign-in", "A machine is waiting")
	b.signIn("alice@example.com", code)
	b.see("6-join", hostname, "127.0.0.1", "alice@example.com", "Type the code")
	b.fill("code", "BCDF-GHJK")
	b.press(main)
	b.see("7-wrong-code", "tries")
	b.fill("code", j.Code)
	b.press(main)
	b.see("8-joined", hostname+" is in your network")
	n.must(j.Wait(n.ctx))
	if !strings.Contains(j.Output(), "This node is "+hostname) {
		b.t.Errorf("the terminal says:\n%s", j.Output())
	}
	b.open(j.URL)
	b.see("8-used", "approved already")
	return node
}

// denyNode presses Deny: page and terminal both say so.
func (b *browser) denyNode(n *network) {
	b.t.Helper()
	node, err := n.host("stranger").StartNode(n.ctx)
	n.must(err)
	j, err := node.Up(n.ctx, "--coordinator", n.coordinator.Join, "--hostname", "stranger")
	n.must(err)
	b.open(j.URL)
	b.press("main button.danger")
	b.see("8-denied", "Nothing was added")
	if j.Wait(n.ctx) == nil || !strings.Contains(j.Output(), "denied") {
		b.t.Errorf("the terminal does not say that it was denied:\n%s", j.Output())
	}
}
