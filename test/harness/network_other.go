//go:build !linux

package harness

import "errors"

func (n *Network) open(int) error { return errors.ErrUnsupported }

func (s *spawner) mount(string, int) error { return errors.ErrUnsupported }
