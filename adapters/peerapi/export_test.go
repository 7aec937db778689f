package peerapi

import "net"

// Handshake makes c carry out another handshake on each connection that it makes.
func (c *Client) Handshake(handshake func(net.Conn) error) { c.handshake = handshake }
