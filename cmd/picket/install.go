package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node"
)

const (
	unitName = "picket.service"
	unitPath = "/etc/systemd/system/" + unitName
	// environmentFile is where HTTPS_PROXY is set; it may hold a password, and nobody but systemd need read it.
	environmentFile = "/etc/default/picket"
)

func installCommand() *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "make the agent a systemd service, started now and at each boot",
		Description: "Behind an HTTP proxy, write HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT into " + environmentFile + " (mode 0600) first.\n\n" +
			"Examples:\n\n   sudo picket install\n   sudo picket install --port 51820\n   picket install --print",
		Flags: append(agentFlags(), &cli.BoolFlag{Name: "print", Usage: "print the unit and change nothing"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			return install(c)
		},
	}
}

func install(c *cli.Context) error {
	a, err := checkAgent(c)
	if err != nil {
		return err
	}
	if !c.IsSet("state") {
		a.state = systemState // the service runs as root, whoever prints its unit
	}
	if !c.IsSet("socket") {
		a.socket = systemSocket
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	unit, err := a.unit(program)
	if err != nil {
		return err
	}
	if c.Bool("print") {
		_, err := fmt.Fprint(c.App.Writer, unit)
		return err
	}
	if err := canInstall(program); err != nil {
		return err
	}
	if err := os.WriteFile(unitPath, []byte(unit), 0o644); err != nil {
		return fmt.Errorf("write the unit: %w", err)
	}
	if err := systemctl(c, "daemon-reload"); err != nil {
		return err
	}
	if err := systemctl(c, "enable", unitName); err != nil {
		return err
	}
	if err := systemctl(c, "restart", unitName); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "The agent runs as %s. Join with: sudo picket up --coordinator JOIN\n", unitName)
	return nil
}

// command is the unit's line that starts the agent as a was told.
func (a agent) command(program string) (string, error) {
	args := []string{program, "run", "--state", a.state, "--socket", a.socket, "--tun", a.tun, "--port", fmt.Sprint(a.port), "--log-level", strings.ToLower(a.level.String())}
	if a.mtu == node.AutoMTU {
		args = append(args, "--mtu", "auto")
	} else if a.mtu != node.LeastMTU {
		args = append(args, "--mtu", fmt.Sprint(a.mtu))
	}
	for _, more := range [][2]string{{"--socks5", a.socks5}, {"--http-proxy", a.http}, {"--inbound", map[bool]string{true: "exposed"}[a.exposedOnly]}} {
		if more[1] != "" {
			args = append(args, more[0], more[1])
		}
	}
	if a.dns == "off" {
		args = append(args, "--dns", "off")
	} else if a.tun != node.Userspace {
		args = append(args, "--dns", "on") // the unit sees no other process, and could not tell whose /etc it is
	}
	if !a.mapPort {
		args = append(args, "--port-mapping", "off")
	}
	for _, word := range args {
		if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:@=+[]-") != "" {
			return "", fmt.Errorf("%q holds a character that a systemd unit would read otherwise: use letters, digits and / . _ : - only", word)
		}
	}
	return strings.Join(args, " "), nil
}

// unit is the systemd unit: root, because an interface and its routes need it, with everything else taken away.
func (a agent) unit(program string) (string, error) {
	command, err := a.command(program)
	if err != nil {
		return "", err
	}
	return `[Unit]
Description=Picket node agent
After=network.target nss-lookup.target
StartLimitIntervalSec=0

[Service]
Type=exec
EnvironmentFile=-` + environmentFile + `
ExecStart=` + command + `
Restart=always
RestartSec=1
` + a.places() + `CapabilityBoundingSet=` + a.capabilities() + `
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=multi-user.target
`, nil
}

// places are the unit's lines that say where the service may write.
func (a agent) places() string {
	places := "ReadWritePaths=-" + filepath.Dir(a.state) + " -" + filepath.Dir(a.socket) + " -/run/wireguard\n"
	if a.state == systemState && a.socket == systemSocket {
		places = "StateDirectory=picket\nStateDirectoryMode=0700\nRuntimeDirectory=picket wireguard\nRuntimeDirectoryMode=0755\nRuntimeDirectoryPreserve=yes\n"
	}
	if a.dns != "off" && a.tun != node.Userspace {
		places += "ReadWritePaths=-/etc/resolv.conf -/run/resolvconf\n"
	}
	return places
}

const noSystemd = "systemd does not run this system: start `picket run` from its own service manager (picket install --print shows how it is meant to run)"

// capabilities are what the service keeps of root's: the interface with its routes and guard, and a low port for the resolver, or where one is asked for.
func (a agent) capabilities() string {
	var keep []string
	if a.tun != node.Userspace {
		keep = append(keep, "CAP_NET_ADMIN")
	}
	if a.port > 0 && a.port < 1024 || a.dns != "off" && a.tun != node.Userspace {
		keep = append(keep, "CAP_NET_BIND_SERVICE")
	}
	return strings.Join(keep, " ")
}

// canInstall refuses without root or systemd, and a program that others could replace: the service would run theirs as root.
func canInstall(program string) error {
	if os.Geteuid() != 0 {
		return errors.New("installing a service needs root: use sudo")
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return errors.New(noSystemd)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return errors.New(noSystemd)
	}
	return onlyRootWrites(program)
}

func onlyRootWrites(path string) error {
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 && at != filepath.Dir(path)
		if !ownedByRoot(info) || (info.Mode().Perm()&0o022 != 0 && !sticky) {
			return fmt.Errorf("%s can be changed by others than root, who could have the service run their own program: put picket into a place of root's first (sudo install -m 755 %s /usr/local/bin/picket)", at, path)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

func systemctl(c *cli.Context, args ...string) error {
	out, err := exec.CommandContext(c.Context, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s failed (%w): %s", strings.Join(args, " "), err, clip(strings.TrimSpace(string(out)), 500))
	}
	return nil
}

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:        "uninstall",
		Usage:       "stop the service and remove it; keys stay",
		Description: "Leave the network first, if you mean to: picket logout.\n\nExample:\n\n   sudo picket uninstall",
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("removing a service needs root: use sudo")
			}
			if _, err := os.Lstat(unitPath); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no service %s to remove", unitName)
			}
			if _, err := os.Stat("/run/systemd/system"); err != nil {
				return fmt.Errorf("systemd does not run this system: end the agent yourself, and remove %s", unitPath)
			}
			if err := systemctl(c, "disable", "--now", unitName); err != nil {
				return err
			}
			if err := os.Remove(unitPath); err != nil {
				return fmt.Errorf("remove the unit: %w", err)
			}
			if err := systemctl(c, "daemon-reload"); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "The service is removed; its keys are still in %s.\n", systemState)
			return nil
		},
	}
}
