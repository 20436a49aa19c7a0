//go:build linux

package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"
)

// Person has an account and a browser without pictures: it opens pages, fills in the forms it finds there, and posts them as a
// browser would, with cookies and the Origin header. It is meant to run in the namespace of that person's own machine.
type Person struct {
	Login    string
	Password string
	TOTP     string // secret, once set up
	Recovery []string
	Spent    uint64 // newest TOTP step used
	http     *http.Client
}

// NewPerson returns somebody without an account yet. The coordinator's certificate is its own, so the browser is told to take it,
// as a person does who has compared its fingerprint.
func NewPerson(login, password string) *Person {
	jar, _ := cookiejar.New(nil) // fails never without options
	return &Person{Login: login, Password: password, http: &http.Client{
		Jar:       jar,
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}}
}

// page is what a browser shows: where it ended up and the document.
type page struct {
	url    *url.URL
	status int
	document
}

func (p *Person) open(ctx context.Context, target string) (*page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Sec-Fetch-Site", "none")
	return p.do(req)
}

func (p *Person) do(req *http.Request) (*page, error) {
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", req.URL.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.URL.Path, err)
	}
	doc, err := parseDocument(string(body))
	return &page{resp.Request.URL, resp.StatusCode, doc}, err
}

// submit fills in the page's form whose action ends with action and posts it. An empty action takes the page's first form in main.
func (p *Person) submit(ctx context.Context, on *page, action string, fields map[string]string) (*page, error) {
	f, ok := on.form(action)
	if !ok {
		return nil, fmt.Errorf("the page %s (%s) has no form %q: it says %q", on.url.Path, on.title, action, on.text)
	}
	values := url.Values{}
	for name, value := range f.fields {
		values.Set(name, value)
	}
	for name, value := range fields {
		if _, ok := f.fields[name]; !ok {
			return nil, fmt.Errorf("the form on %s has no field %s", on.url.Path, name)
		}
		values.Set(name, value)
	}
	target := on.url.ResolveReference(&url.URL{Path: f.action})
	if strings.HasSuffix(f.deny, action) && action != "" {
		target = on.url.ResolveReference(&url.URL{Path: f.deny})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", target.Scheme+"://"+target.Host)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return p.do(req)
}

// SetUp follows a setup link to the end: password, authenticator, recovery codes.
func (p *Person) SetUp(ctx context.Context, link string) error {
	at, err := p.open(ctx, link)
	if err != nil {
		return err
	}
	fields := map[string]string{}
	if f, ok := at.form("/begin"); ok && has(f, "login") {
		fields["login"] = p.Login
	}
	if at, err = p.submit(ctx, at, "/begin", fields); err != nil {
		return err
	}
	if p.TOTP = strings.ReplaceAll(at.byID["secret"], " ", ""); p.TOTP == "" {
		return fmt.Errorf("the setup page shows no authenticator secret; it says %q", at.text)
	}
	code, err := p.code()
	if err != nil {
		return err
	}
	if at, err = p.submit(ctx, at, "", map[string]string{"password": p.Password, "confirm": p.Password, "code": code}); err != nil {
		return err
	}
	if p.Recovery = at.recovery; len(p.Recovery) == 0 {
		return fmt.Errorf("setting up %s failed; the page says %q", p.Login, at.text)
	}
	return nil
}

func has(f form, name string) bool { _, ok := f.fields[name]; return ok }

// code is the second factor: the authenticator's code, or a recovery code while the current one is spent (each counts once).
func (p *Person) code() (string, error) {
	now := time.Now()
	if step := uint64(now.Unix()) / 30; step > p.Spent {
		p.Spent = step
		return totp.GenerateCode(p.TOTP, now)
	}
	if len(p.Recovery) == 0 {
		return "", errors.New("no unspent second factor: wait half a minute")
	}
	code := p.Recovery[0]
	p.Recovery = p.Recovery[1:]
	return code, nil
}

// signIn fills in the sign-in page when at is one.
func (p *Person) signIn(ctx context.Context, at *page) (*page, error) {
	if at.url.Path != "/login" {
		return at, nil
	}
	code, err := p.code()
	if err != nil {
		return nil, err
	}
	after, err := p.submit(ctx, at, "/login", map[string]string{"login": p.Login, "password": p.Password, "code": code})
	if err == nil && after.url.Path == "/login" {
		err = fmt.Errorf("sign-in as %s failed; the page says %q", p.Login, after.text)
	}
	return after, err
}

// Open signs in where needed and returns what the page at link says.
func (p *Person) Open(ctx context.Context, link string) (title, text string, err error) {
	at, err := p.open(ctx, link)
	if err == nil {
		at, err = p.signIn(ctx, at)
	}
	if err != nil {
		return "", "", err
	}
	return at.title, at.text, nil
}

// Approve opens a node's login URL, signs in where needed, and types the code: what the page then says.
func (p *Person) Approve(ctx context.Context, link, code string) (string, error) {
	at, err := p.join(ctx, link)
	if err != nil {
		return "", err
	}
	at, err = p.submit(ctx, at, "", map[string]string{"code": code})
	if err != nil {
		return "", err
	}
	if at.status >= 400 {
		return at.text, fmt.Errorf("not approved (status %d): %s", at.status, at.text)
	}
	return at.text, nil
}

// Deny opens a node's login URL and presses Deny.
func (p *Person) Deny(ctx context.Context, link string) (string, error) {
	at, err := p.join(ctx, link)
	if err != nil {
		return "", err
	}
	if at, err = p.submit(ctx, at, "/deny", map[string]string{}); err != nil {
		return "", err
	}
	return at.text, nil
}

func (p *Person) join(ctx context.Context, link string) (*page, error) {
	at, err := p.open(ctx, link)
	if err != nil {
		return nil, err
	}
	return p.signIn(ctx, at)
}
