<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:template match="painting"><li><xsl:value-of select="concat(@year, ': ', .)"/></li></xsl:template>
</xsl:stylesheet>
