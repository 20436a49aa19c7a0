package packet

// Fault is why a packet cannot be read. The zero Fault is none.
type Fault uint8

// The faults.
const (
	FaultNone          Fault = iota
	FaultShort               // ends inside a header
	FaultVersion             // neither IPv4 nor IPv6
	FaultHeader              // header length or reserved bits are impossible
	FaultLength              // length field and true length differ
	FaultChecksum            // IPv4 header checksum is wrong
	FaultOptions             // IPv4 options are malformed
	FaultSourceRoute         // IPv4 loose or strict source route: names a destination the filter would not see
	FaultJumbo               // IPv6 jumbo payload
	FaultExtension           // IPv6 extension header unknown, misplaced, malformed, or one too many
	FaultRoutingHeader       // IPv6 routing header of any type (type 0: RFC 5095)
	FaultFragment            // fragment geometry is impossible
	FaultTinyFragment        // first fragment without the whole transport header (RFC 1858, RFC 7112)
	FaultTransport           // TCP, UDP or ICMP header is malformed
	FaultPortZero            // source or destination port 0
	FaultICMPFamily          // ICMP in IPv6 or ICMPv6 in IPv4
	NumFaults
)

var faultNames = [NumFaults]string{
	"", "short", "ip-version", "ip-header", "ip-length", "ip-checksum", "ip-options", "source-route", "jumbo", "extension-header",
	"routing-header", "fragment-shape", "tiny-fragment", "transport-header", "port-zero", "icmp-family",
}

// String is a short stable name for counters; empty for FaultNone.
func (f Fault) String() string {
	if f >= NumFaults {
		return "unknown-fault"
	}
	return faultNames[f]
}
