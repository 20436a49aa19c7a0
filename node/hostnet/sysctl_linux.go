package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// forwarding is whether it was we who turned the host's forwarding on, for IPv4 and IPv6. It is noted beside the guard, as a chain without
// rules in its table, which lives as long as the setting itself: so the next agent after one that was killed can take it back.
type forwarding [2]bool

// forwardingPath is the switch of a family (ip-sysctl of the kernel's documentation).
func forwardingPath(is6 bool) string {
	if is6 {
		return "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	return "/proc/sys/net/ipv4/ip_forward"
}

// forwardingMark is the chain that notes that forwarding of a family was off.
func forwardingMark(is6 bool) string {
	if is6 {
		return "forwarding_was_off_ipv6"
	}
	return "forwarding_was_off_ipv4"
}

// forwardingChange is a switch to set.
type forwardingChange struct {
	is6, on bool
}

// noteForwarding decides, before the guard is set, which switches are to be set after it, and whether they are ours.
func (h *Host) noteForwarding(c Config) (changes []forwardingChange) {
	chains := h.ourChains()
	for _, is6 := range []bool{false, true} {
		ours := &h.forwarding[index(is6)]
		*ours = *ours || chains[forwardingMark(is6)] != nil
		text, err := os.ReadFile(forwardingPath(is6))
		on := err == nil && strings.TrimSpace(string(text)) != "0"
		switch wanted := c.serves(is6); {
		case wanted && !on:
			*ours = true
			changes = append(changes, forwardingChange{is6, true})
		case wanted:
			// It was on before, or we have turned it on.
		case *ours:
			*ours = false
			changes = append(changes, forwardingChange{is6, false})
		}
	}
	return changes
}

func (h *Host) setForwarding(changes []forwardingChange) error {
	var failed []error
	for _, c := range changes {
		value := map[bool]string{true: "1", false: "0"}[c.on]
		err := os.WriteFile(forwardingPath(c.is6), []byte(value), 0)
		if errors.Is(err, fs.ErrNotExist) && c.is6 {
			continue // the host has no IPv6: there is nothing to forward
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s cannot be set to %s (%w)", forwardingPath(c.is6), value, errors.Unwrap(err)))
		}
	}
	return errors.Join(failed...)
}

// StrictSources lists the interfaces but the one named that drop packets from where they would not be sent to (rp_filter 1 of
// ip-sysctl): with an exit node, all that peers send.
func StrictSources(but string) (out []string) {
	const folder = "/proc/sys/net/ipv4/conf/"
	interfaces, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	value := func(name string) string {
		text, _ := os.ReadFile(folder + name + "/rp_filter") // an interface that went away is not strict
		return strings.TrimSpace(string(text))
	}
	all := value("all")
	for _, i := range interfaces {
		name := i.Name()
		if own := value(name); name != "all" && name != "default" && name != "lo" && name != but && max(all, own) == "1" {
			out = append(out, name)
		}
	}
	return out
}
