package gitpolicy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	dialTimeout = 15 * time.Second
	maxSecret   = 64 << 10 // bytes of a key or token file
)

func newRemote(where location, c Config) (*remote, error) {
	host, port := where.host, 0
	if h, p, err := net.SplitHostPort(where.host); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return nil, refuse("the port in the --policy-repo URL is no port")
		}
		host, port = h, int(n)
	}
	r := &remote{where: where, dir: c.CacheDir}
	r.endpoint = &transport.Endpoint{Protocol: where.scheme, User: where.user, Host: host, Port: port, Path: where.path}
	var err error
	if where.scheme == "ssh" {
		r.transport, r.auth, err = sshTransport(where, c)
	} else {
		r.transport, r.auth, err = httpsTransport(c)
	}
	return r, err
}

// httpsTransport follows a redirect only within its host, so that a token never leaves for another.
func httpsTransport(c Config) (transport.Transport, transport.AuthMethod, error) {
	roots, err := rootsWith(c.CA)
	if err != nil {
		return nil, nil, err
	}
	client := &http.Client{
		Timeout: maxTime,
		Transport: bounded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  maxTime,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Scheme != "https" || req.URL.Host != via[0].URL.Host {
				return fmt.Errorf("it redirects to %s: name that in --policy-repo if it is right", req.URL.Host)
			}
			return nil
		},
	}
	if c.SSHKey != "" || c.KnownHosts != "" {
		return nil, nil, refuse("--policy-ssh-key and --policy-known-hosts go with a ssh:// repository; this one is https://")
	}
	if c.Token == "" {
		return githttp.NewClient(client), nil, nil
	}
	token, err := readSecret(c.Token)
	if err != nil {
		return nil, nil, err
	}
	// GitHub, GitLab, Gitea and Bitbucket all take an access token as the password of a basic login, whatever the user.
	return githttp.NewClient(client), &githttp.BasicAuth{Username: "x-access-token", Password: token}, nil
}

// bounded ends an answer that is longer than it may be: go-git keeps every branch and tag that a server names.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	most := int64(maxRefs)
	if req.Method == http.MethodPost {
		most = maxPack + maxPack/8 // the side band's frames around the pack
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, most)
	return resp, nil
}

func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, refuse("cannot read --policy-ca: %v", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, refuse("--policy-ca %s holds no certificate in PEM form", file)
	}
	return roots, nil
}

// readSecret reads a one-line secret from a file that only its owner may read.
func readSecret(file string) (string, error) {
	text, err := readPrivate(file)
	secret := strings.TrimSpace(string(text))
	if err == nil && (secret == "" || strings.ContainsAny(secret, "\r\n")) {
		err = refuse("%s must hold the token on one line", file)
	}
	return secret, err
}

func readPrivate(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, refuse("cannot read %v", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, refuse("others may read %s (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	if info.Size() > maxSecret {
		return nil, refuse("%s is larger than a key or token can be", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, refuse("cannot read %v", err)
	}
	return text, nil
}

// sshTransport needs both a key of ours and the server's: a host key is never taken on trust.
func sshTransport(where location, c Config) (transport.Transport, transport.AuthMethod, error) {
	if c.SSHKey == "" || c.KnownHosts == "" {
		return nil, nil, refuse("a ssh:// repository needs --policy-ssh-key FILE (a deploy key) and --policy-known-hosts FILE (made with: ssh-keyscan %s)", strings.Split(where.host, ":")[0])
	}
	if c.Token != "" {
		return nil, nil, refuse("--policy-token goes with a https:// repository; this one is ssh://")
	}
	text, err := readPrivate(c.SSHKey)
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil { // never the error of a parser that saw a key
		return nil, nil, refuse("%s is no private key without a passphrase in OpenSSH or PEM form", c.SSHKey)
	}
	db, err := gitssh.NewKnownHostsDb(c.KnownHosts)
	if err != nil {
		return nil, nil, refuse("cannot read --policy-known-hosts: %v", err)
	}
	config := &ssh.ClientConfig{ // laid over what auth says, empty fields included
		User:              where.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: db.HostKeyAlgorithms(withPort(where.host)),
		HostKeyCallback:   db.HostKeyCallback(),
		Timeout:           dialTimeout,
	}
	auth := &gitssh.PublicKeys{User: where.user, Signer: signer}
	auth.HostKeyCallback = db.HostKeyCallback()
	return gitssh.NewClient(config), auth, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "22")
}

// explainSSH knows the two failures a person meets: nil for others.
func explainSSH(where location, err error) error {
	var host *knownhosts.KeyError
	if errors.As(err, &host) {
		if len(host.Want) > 0 {
			return refuse("%s shows another host key than --policy-known-hosts holds: if the server's key was changed on purpose, put the new one there", where)
		}
		return refuse("--policy-known-hosts has no key for %s: add the output of ssh-keyscan after checking its fingerprint", where)
	}
	if strings.Contains(err.Error(), "unable to authenticate") {
		return refuse("%s does not accept the key of --policy-ssh-key: add its public half there as a deploy key", where)
	}
	return nil
}
