"""Supervision for Pykka actors."""
