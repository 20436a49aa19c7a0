// Package review says what a policy lets whom do, and what a change of it changes.
//
// Policies are compared by meaning, never by text: both are joined with one directory, and the places where flows begin and end (nodes,
// networks behind routers, what lies beyond exit nodes) are sorted into classes that neither policy tells apart. A class then stands for
// its places, and the ports are cut where rules begin and end, so the work grows with what the rules tell apart and not with the pairs of
// nodes.
//
// Between two classes a policy allows alternatives: ports, and the conditions under which they are open. Flows are gained where the new
// policy has an alternative that no old one covers, and lost the other way round. Conditions are compared by strength: a shorter mfa is
// the stronger demand, fewer postures, an earlier until. Conditions that differ in any other way are taken for different ones. A posture is
// a condition and not a fact: what a device is like today does not make a change harmless.
//
// Without a directory, stand-ins take its place: one node for each user, tag, role and address that either policy names.
package review
