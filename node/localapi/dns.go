package localapi

// DNS is `picket dns status`.
type DNS struct {
	On       bool       `json:"on"`
	Off      bool       `json:"off,omitempty"`      // the user said so
	Domain   string     `json:"domain,omitempty"`   // nodes are called NAME.Domain
	Listen   string     `json:"listen,omitempty"`   // where programs of the host are answered; empty: nowhere
	UDPOnly  bool       `json:"udpOnly,omitempty"`  // another program has TCP port 53 at every address
	Mode     string     `json:"mode,omitempty"`     // systemd-resolved, networkmanager, resolvconf, file or none
	Why      string     `json:"why,omitempty"`      // that mode
	Changed  []string   `json:"changed,omitempty"`  // on the host, in words
	Upstream []string   `json:"upstream,omitempty"` // who is asked about other names
	Split    []SplitDNS `json:"split,omitempty"`
	Search   []string   `json:"search,omitempty"`
	Records  int        `json:"records,omitempty"` // of the network's operator
	Trouble  string     `json:"trouble,omitempty"`
}

// SplitDNS says who is asked about a domain; nobody, where there are no nameservers.
type SplitDNS struct {
	Domain      string   `json:"domain"`
	Nameservers []string `json:"nameservers"`
}

// QueryDNS asks for records of a type, "A" or "MX", of a name.
type QueryDNS struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// DNSReply is the answer.
type DNSReply struct {
	Name    string   `json:"name"`
	Status  string   `json:"status"` // NOERROR, NXDOMAIN, SERVFAIL, …
	Records []string `json:"records"`
	From    string   `json:"from"` // who gave it
}
