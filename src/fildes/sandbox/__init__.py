"""Confinement as data: profiles of system calls, and plans of steps that can be printed before they are taken."""
