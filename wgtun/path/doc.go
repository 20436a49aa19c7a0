// Package path is the tunnel's conn.Bind: it finds, proves and picks the network path to each peer.
//
// # Peers, not addresses
//
// To WireGuard an endpoint is a peer ([EndpointText]); which address its datagrams go to is decided here, for each batch anew. An
// address belongs to a peer only by an authenticated probe, never because a WireGuard handshake came from it: a recorded handshake
// may be sent again by anybody, from anywhere.
//
//	out   Send -> the peer's proved way, whole batches untouched
//	            \ none proved: the newest few datagrams wait, all candidates are pinged, the first answer lets them go
//	in    receive -> probe?      handled here, its size set to 0
//	              -> WireGuard?  passed on if an authenticated probe bound its source to a peer, else dropped and counted
//	              -> reflector?  noted if it answers a question of ours, else dropped and counted
//	              -> else        dropped and counted
//
// Receiving never sends and never blocks: answers go into a bounded outbox that Run empties. Run also keeps the one timer: every
// 250 ms it looks at the peers that are live (in use, or probed in the last minutes). All other peers cost memory only.
//
// # Peers that sleep
//
// WireGuard need not hold a peer that nobody uses. Such a peer sleeps: it has no address, and its pings are answered only after
// Config.Wake was called for it and Woken has said that WireGuard knows it. Since a peer sends nothing before it has our answer, nothing of it
// comes too early; and since that answer is believed for 30 s, a peer goes to sleep only when it was silent for longer (Sleep).
//
// # Tunnel keys that change
//
// A peer is known by its probe key; each of its pings says which tunnel key it has now. One that is neither the key we know nor the next
// that its device has certified (Peer.Next) is dropped. The next one is taken over: Config.Wake is called with it, and the ping is
// answered only when WireGuard has that key (Succeed, Woken). From there on pings that name the former key are dropped.
//
// When our own key changes (Doubt, Rekey), all peers are asked at once, and no handshake of ours goes to a peer before it has
// answered, for it would not know the key. Whoever takes a key over begins the handshake, and says so in its pong; then ours is dropped,
// since of two that cross none succeeds. Pongs also tell which of our keys a peer knows (Knows), so that we change to none that it does not.
//
// # Relays
//
// A peer may have a home: a place at a relay. What goes there is one more candidate, and what comes from there is believed as little as the source of a UDP datagram:
// inside, each place at a relay has an address of its own (an alias, in 100::/8, where no host is), and everything said below of addresses holds for it. The relay's round
// trip is paid once, by the ping before the first datagram; a direct way that answers is taken in place of a relay, however fast that is, and left for it after about 2 s without answer,
// or as soon as two pings have failed. While a relay is in use all candidates are asked again, after 5 s at first and then less and less often.
//
// # When an address is believed
//
// We send to an address after it answered a ping of ours: the answer must repeat 12 fresh random bytes and come from the address
// the ping went to. A proof lasts 30 s, and is renewed every 5 s while the path is used. A ping that a peer sent us proves only that
// somebody holds what the peer once wrote; it binds its source for incoming datagrams, for 3 minutes, in a list of 4 for each
// peer, and never takes an address that another peer has proved.
//
// A peer whose probe key changes has restarted, on the word of its certificate: its way stays in use for at most 3 s more while the
// new key is asked, so that a handover loses no flow, and every older proof is void.
//
// # Where we are seen, and who seeks whom
//
// RunReflect asks reflectors, from the same socket, where our datagrams come from (stun.go has the form). An answer counts once, to the newest question, from
// the very address asked; of those that are relays', two must say the same. They are asked anew when a peer in use has lost its direct way. Peers with traffic and without a direct path are sought (Config.Seek): somebody who reaches them has them ping us
// (Sought) while we ping them, since an address translator lets in what answers.
//
// # Probe
//
// Every probe is one UDP datagram of 128 bytes; a ping that finds out how long datagrams may be is padded with zeros to the length that it states.
// An answer is never larger than what asked for it:
//
//	offset  bytes
//	     0      4  magic 70 6b 74 02 ("pkt", version 2). WireGuard begins with 01..04 00 00 00, STUN with two zero bits.
//	     4      8  hint XOR mask
//	    12     24  nonce, random
//	    36     76  body, sealed with XChaCha20-Poly1305; bytes 0..11 are its associated data
//	   112     16  tag
//
//	hint = first 8 bytes of BLAKE2s-256(key: receiver's probe public key, "hint" + sender's probe public key)
//	mask = first 8 bytes of BLAKE2s-256(key: receiver's probe public key, "mask" + nonce)
//	key  = HKDF-SHA-256(secret: X25519(own probe private, other's probe public), no salt, info: "picket probe v2" +
//	       sender's probe public + receiver's probe public), 32 bytes
//
// The hint lets the receiver find whose key to try with two short hashes, whatever the number of peers. The mask makes it different
// in every datagram: who does not know the receiver's probe public key sees random bytes and cannot link two probes, which is what
// WireGuard's mac1 gives as well. Each direction has its own key, so a probe cannot be reflected to its sender.
//
// The body, numbers big-endian:
//
//	offset  bytes
//	     0      1  type: 1 ping, 2 pong
//	     1      1  pong: 1 when its sender has just taken the ping's tunnel key over and begins the handshake; else zero
//	     2      2  zero; ignored on receipt
//	     4     12  transaction, random; a pong repeats the ping's
//	    16      8  sequence, rising by one for each ping to this peer from a start in nanoseconds; zero in a pong
//	    24     16  pong: the address the ping was seen from, IPv4 as IPv4-mapped IPv6; zero in a ping
//	    40      2  pong: its port; zero in a ping
//	    42      2  padded ping: the datagram's whole length, with which it must arrive; pong: as in the ping it answers; else zero
//	    44     32  ping: its sender's tunnel public key; pong: the newest tunnel key of the ping's sender that the answerer knows
//
// Each sequence number is taken once, within a window of the newest 64, so a replayed ping has no effect at all. A peer that is
// removed and added again begins a new window; an old ping then does once what one does that never arrived: it gets a pong and a few
// pings, all of its size, and its source a place in the list of 4.
//
// # How long datagrams may be
//
// Unless Config.MaxDatagram says more, WireGuard's messages are of at most 1312 bytes, and nothing is measured. Else the way in use is measured from the
// longest length down (RFC 8899), by pings that are not to be cut; a pong proves that one arrived whole. The proved length is asked for every 5 s while the
// way is used, longer ones every 10 min. Until something is known, what Ethernet takes is believed.
//
// # What strangers get
//
// Nothing. A datagram that is no probe and comes from no bound address is dropped. A probe with an unknown hint costs two hashes; one with a known hint (its
// sender knows our probe key) is decrypted at a limited rate for each source and in all, and for each peer where it claims the source; one that does not authenticate is dropped. No state is kept for any of these and no answer sent.
//
// Candidate addresses come from other nodes and may be lies. Multicast, broadcast, loopback, link-local, reserved and overlay
// addresses are never probed; of the rest at most MaxCandidates a peer, at a rate limited for each peer and in all, and less and less
// often while they stay silent.
package path
