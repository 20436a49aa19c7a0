//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// bareLink is the bare tunnel's interface.
const bareLink = "wg-bare"

// wireguard runs a bare device until it is told to end: wireguard CONFIGURATION-FILE ADDRESS/BITS. It prints "up" when it is.
func wireguard(args []string) error {
	if len(args) != 2 {
		return errors.New("wireguard CONFIGURATION-FILE ADDRESS/BITS")
	}
	conf, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	t, err := tun.CreateTUN(bareLink, mtu)
	if err != nil {
		return fmt.Errorf("make the TUN device: %w", err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	if err := d.IpcSet(string(conf)); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	if err := addressUp(args[1]); err != nil {
		return err
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, os.Interrupt)
	fmt.Println("up")
	select {
	case <-told:
		return nil
	case <-d.Wait():
		return errors.New("the device has failed")
	}
}

func addressUp(prefix string) error {
	link, err := netlink.LinkByName(bareLink)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add %s: %w", prefix, err)
	}
	return netlink.LinkSetUp(link)
}
