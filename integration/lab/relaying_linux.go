//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Block has a router drop what a rule of nft's "ip" forward chain matches ("ip protocol udp"), until Unblock.
func (h *Host) Block(ctx context.Context, match string) error {
	_, err := h.Run(ctx, "nft", "add table ip labblock; add chain ip labblock forward { type filter hook forward priority -10; }; add rule ip labblock forward "+match+" drop")
	return err
}

// Unblock ends what Block began.
func (h *Host) Unblock(ctx context.Context) error {
	_, err := h.Run(ctx, "nft", "delete table ip labblock")
	return err
}

// CanProxy says in words why a router cannot be an HTTP proxy here; nil when it can.
func CanProxy() error {
	if _, err := exec.LookPath("tinyproxy"); err != nil {
		return fmt.Errorf("tinyproxy is missing (Debian: tinyproxy)")
	}
	return nil
}

// Proxy runs tinyproxy on the router of the network, for whoever gives the name and password, and returns its URL without them.
func (l *LAN) Proxy(ctx context.Context, router *Host, name, password string) (string, error) {
	conf := filepath.Join(router.Dir, "tinyproxy.conf")
	text := fmt.Sprintf("Port 8888\nListen %s\nTimeout 600\nMaxClients 50\nLogLevel Info\nBasicAuth %s %s\nDisableViaHeader Yes\n", l.Address(1), name, password)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	p, err := router.Start("tinyproxy", "tinyproxy", "-d", "-c", conf)
	if err != nil {
		return "", err
	}
	err = p.WaitFor(ctx, "proxy listening", func(out string) bool {
		return strings.Contains(out, "Accepting connections") || strings.Contains(out, "listening")
	})
	return fmt.Sprintf("http://%s:8888", l.Address(1)), err
}
