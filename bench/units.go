package main

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// unit says how values of a row are written, and whether lower ones are better.
type unit struct {
	lowerIsBetter bool
	text          func(float64) string
}

var (
	perSecond = unit{text: func(v float64) string { return rounded(v) + "/s" }}
	seconds   = unit{lowerIsBetter: true, text: func(v float64) string {
		return span(time.Duration(v * float64(time.Second)))
	}}
	megabytes = unit{lowerIsBetter: true, text: func(v float64) string { return rounded(v/1e6) + " MB" }}
	percent   = unit{lowerIsBetter: true, text: func(v float64) string { return rounded(v*100) + " %" }}
)

// rounded keeps three digits, or two after the decimal point.
func rounded(v float64) string {
	switch {
	case v >= 1000:
		scale := math.Pow(10, math.Floor(math.Log10(v))-2)
		return thousands(int(math.Round(v/scale) * scale))
	case v >= 100:
		return strconv.Itoa(int(math.Round(v)))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// span formats a duration with a fitting unit.
func span(d time.Duration) string {
	switch {
	case d >= time.Second:
		return rounded(d.Seconds()) + " s"
	case d >= time.Millisecond:
		return rounded(float64(d)/1e6) + " ms"
	}
	return rounded(float64(d)/1e3) + " µs"
}

// thousands separates groups of three digits.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}
