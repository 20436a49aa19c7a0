package web

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/pquerna/otp/totp"

	"picket.internal/coordinator"
)

// chromium is a real browser on the pages. Screenshots go to the test's temporary folder and to $PICKET_SCREENSHOTS.
type chromium struct {
	t     *testing.T
	w     *world
	ctx   context.Context
	shots []string
}

func newChromium(t *testing.T, w *world) *chromium {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "headless-shell"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium here: install the package chromium to run the pages in a real browser")
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
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	c := &chromium{t: t, w: w, ctx: ctx, shots: []string{t.TempDir()}}
	if dir := os.Getenv("PICKET_SCREENSHOTS"); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.shots = append(c.shots, dir)
	}
	c.do(chromedp.Navigate("about:blank"))
	return c
}

func (c *chromium) do(steps ...chromedp.Action[chromedp.Void]) {
	c.t.Helper()
	if err := chromedp.Do(c.ctx, steps...); err != nil {
		c.t.Fatal(err)
	}
}

// run is one step that yields something.
func run[T any](c *chromium, step chromedp.Action[T]) T {
	c.t.Helper()
	v, err := chromedp.Run(c.ctx, step)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// call is one command of the browser's own protocol.
func call[P, R any](c *chromium, command cdp.Command[P, R], params P) R {
	c.t.Helper()
	r, err := chromedp.Call(c.ctx, command, params)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c *chromium) open(path string) {
	c.t.Helper()
	c.do(chromedp.Navigate(c.w.srv.URL + path))
}

// fill types into the field with this id.
func (c *chromium) fill(id, text string) {
	c.t.Helper()
	c.do(chromedp.Clear(chromedp.ID(id)), chromedp.SendKeys(chromedp.ID(id), text))
}

// press clicks and waits for the page that follows.
func (c *chromium) press(selector string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		c.t.Fatalf("press %s: %v", selector, err)
	}
}

// text is what a reader sees of the page.
func (c *chromium) text() string {
	c.t.Helper()
	return run(c, chromedp.Text(chromedp.CSS("body")))
}

func (c *chromium) see(texts ...string) {
	c.t.Helper()
	s := c.text()
	for _, text := range texts {
		if !strings.Contains(s, text) {
			c.t.Errorf("the page does not show %q:\n%s", text, s)
		}
	}
}

func (c *chromium) shot(name string) {
	c.t.Helper()
	b := run(c, chromedp.FullScreenshot(100))
	for _, dir := range c.shots {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), b, 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

// fits fails when the page scrolls sideways.
func (c *chromium) fits(name string) {
	c.t.Helper()
	over := run(c, chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`))
	if over > 0 {
		c.t.Errorf("%s: the page is %d pixels wider than the window", name, over)
	}
}

func (c *chromium) look(width int64, scheme string) {
	c.t.Helper()
	call(c, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 860, DeviceScaleFactor: 1, Mobile: width < 600})
	call(c, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// TestBrowserWholeStory walks through everything a first administrator meets, without a script on any page.
func TestBrowserWholeStory(t *testing.T) {
	w := newWorld(t)
	c := newChromium(t, w)
	call(c, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	w.api.invitations["first"] = coordinator.Invitation{Role: coordinator.RoleAdmin, Expires: time.Now().Add(time.Hour)}

	c.open("/setup/first")
	c.shot("01-setup-start")
	c.fill("login", "grace@example.com")
	c.press("main button")
	c.see("Step 2 of 2", "grace@example.com")
	c.shot("02-setup")
	secret := strings.ReplaceAll(c.read("#secret"), " ", "")
	c.fill("password", "grace has a long word")
	c.fill("confirm", "grace has another word")
	c.fill("code", "000000")
	c.press("main button")
	c.see("Leave your e-mail address and name out of the password.")
	c.shot("03-setup-faults")
	if again := strings.ReplaceAll(c.read("#secret"), " ", ""); again != secret {
		t.Error("a failed try changed the TOTP secret")
	}
	c.fill("password", "seven grey herons stand")
	c.fill("confirm", "seven grey herons stand")
	c.fill("code", codeOf(t, secret))
	c.press("main button")
	c.see("Keep these recovery codes", "This is the only time they are shown.")
	c.shot("04-recovery")
	if n := len(regexp.MustCompile(`k\dwm-7f3q-p\dxz`).FindAllString(c.text(), -1)); n != 10 {
		t.Errorf("%d recovery codes, want 10", n)
	}

	w.api.ticket("t1")
	c.open("/join/t1")
	c.see("Sign in", "A machine is waiting to be let in.")
	c.shot("05-login")
	c.fill("login", "grace@example.com")
	c.fill("password", "not my password")
	c.fill("code", codeOf(t, secret))
	c.press("main button")
	c.see("E-mail, password or code is not right.")
	c.shot("06-login-wrong")
	c.fill("password", "seven grey herons stand")
	c.fill("code", codeOf(t, secret))
	c.press("main button")
	c.see("Let this machine in?", "bob-thinkpad", "203.0.113.7")
	c.shot("07-join")
	c.fill("code", "AAAA-BBBB")
	c.press("main button")
	c.see("2 tries are left")
	c.shot("08-join-wrong")
	c.fill("code", "b7kd 2mxr")
	c.press("main button")
	c.see("bob-thinkpad is in your network", "100.64.0.9", "goes on by itself")
	c.shot("09-join-done")

	w.api.ticket("t2")
	c.open("/join/t2")
	c.press("main button.danger")
	c.see("Nothing was added")
	c.shot("10-join-denied")
	c.open("/join/t2")
	c.see("This request was denied", "picket up")
	c.shot("11-join-over")
	c.open("/join/none")
	c.see("There is no such login request")
	c.shot("12-problem")

	c.adminPages()
	c.press(".who button")
	c.see("Sign in")
}

// adminPages goes through the administrators' pages of a signed-in browser.
func (c *chromium) adminPages() {
	t, w := c.t, c.w
	t.Helper()
	c.open("/")
	c.see("Overview", "Add a machine")
	c.shot("20-overview")
	c.open("/nodes")
	c.see("ada-laptop", "Quarantined")
	c.shot("21-nodes")
	c.press("tbody a")
	c.shot("22-node")
	c.press("main .actions a")
	c.fill("name", "a name with spaces")
	c.press("main button")
	c.see("That is not a name")
	c.shot("23-rename-wrong")
	c.open("/nodes/n1/remove")
	c.shot("24-remove")
	c.press("main button.danger")
	c.see("Generation 42", "In force on 1 of 3 nodes", "node.remove")
	c.shot("25-change")
	c.open("/users")
	c.fill("login", "carol@example.com")
	c.press("main form .row button")
	c.see("Setup link for carol@example.com", "/setup/setup-token-of-u4")
	c.shot("26-users")
	c.open("/keys")
	c.fill("tags", "db")
	c.press("main form .row button")
	c.see("picket-key-k1-secretsecret")
	c.shot("27-keys")
	w.api.mu.Lock()
	w.api.policy.Refused, w.api.policy.RefusedAuthor = "99887766554433221100ffeeddccbbaa99887766", "Bob <bob@example.com>"
	w.api.policy.Errors = []string{"line 4, column 12: unknown group \"group:dve\": did you mean \"group:dev\", line 2?", "line 9, column 3: trailing text after the policy"}
	w.api.policy.ErrorSince = time.Now().Add(-4 * time.Minute)
	w.api.mu.Unlock()
	c.open("/policy")
	c.see("A newer policy is not in force", "line 4, column 12", "Let the developers reach the database")
	c.shot("28-policy")
	c.open("/audit")
	c.see("node.remove", "policy.set")
	c.shot("29-audit")
	c.open("/")
	c.shot("30-overview-refused")
}

// TestBrowserNarrowAndDark looks at the pages as a phone shows them, and in the dark: nothing may be wider than the window.
func TestBrowserNarrowAndDark(t *testing.T) {
	w := newWorld(t)
	c := newChromium(t, w)
	w.api.invitations["inv"] = coordinator.Invitation{Login: "carol@example.com", Role: coordinator.RoleMember, Expires: time.Now().Add(time.Hour)}
	w.api.ticket("t1").view.Hostname = strings.Repeat("a-rather-long-host-name", 9)
	w.api.keys = []coordinator.AuthKey{{ID: "k1", Tags: []string{"tag:db", "tag:web"}, State: "valid", Expires: time.Now().Add(time.Hour), By: adminLogin}}
	c.look(360, "dark")
	c.open("/setup/inv")
	c.fits("setup start")
	c.press("main button")
	c.fits("setup")
	c.shot("40-phone-setup")
	c.open("/login")
	c.fill("login", adminLogin)
	c.fill("password", goodPass)
	c.fill("code", w.api.code(t, adminLogin))
	c.press("main button")
	for path, name := range map[string]string{
		"/": "41-phone-overview", "/nodes": "42-phone-nodes", "/nodes/n3": "43-phone-node", "/users": "44-phone-users", "/policy": "45-phone-policy",
		"/audit": "46-phone-audit", "/join/t1": "47-phone-join", "/changes/41": "48-phone-change", "/keys": "49-phone-keys",
	} {
		c.open(path)
		c.fits(path)
		c.shot(name)
	}
	c.look(1280, "dark")
	for path, name := range map[string]string{"/": "50-dark-overview", "/nodes": "51-dark-nodes", "/policy": "52-dark-policy", "/join/t1": "53-dark-join", "/users": "54-dark-users"} {
		c.open(path)
		c.shot(name)
	}
}

// TestBrowserRefusesForeignForms posts from another origin with the person's cookies, as a hostile page would.
func TestBrowserRefusesForeignForms(t *testing.T) {
	w := newWorld(t)
	c := newChromium(t, w)
	w.api.ticket("t1")
	c.open("/login")
	c.fill("login", adminLogin)
	c.fill("password", goodPass)
	c.fill("code", w.api.code(t, adminLogin))
	c.press("main button")
	c.do(chromedp.Navigate("about:blank"))
	tree := call(c, cdppage.GetFrameTree, cdp.Empty{})
	call(c, cdppage.SetDocumentContent, cdppage.SetDocumentContentParams{FrameID: tree.FrameTree.Frame.ID,
		HTML: `<form method="post" action="` + w.srv.URL + `/join/t1/deny"><button id="b">win a prize</button></form>`})
	c.press("#b")
	c.see("did not come from Picket's own pages")
	if w.api.called("DenyTicket") {
		t.Error("a foreign form denied a ticket")
	}
}

// read is one element's text.
func (c *chromium) read(selector string) string {
	c.t.Helper()
	return run(c, chromedp.Text(chromedp.CSS(selector)))
}

func codeOf(t *testing.T, secret string) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}
