from django.db import models
from django.utils.translation import gettext_lazy as _


class Author(models.Model):
    name = models.CharField(_("name"), max_length=100, unique=True)
    born = models.DateField(_("born"), null=True, blank=True)

    class Meta:
        verbose_name = _("author")
        verbose_name_plural = _("authors")
        ordering = ["name"]

    def __str__(self):
        return self.name


class Book(models.Model):
    title = models.CharField(_("title"), max_length=200)
    author = models.ForeignKey(Author, models.PROTECT, verbose_name=_("author"), related_name="books")
    price = models.DecimalField(_("price"), max_digits=8, decimal_places=2, default=0)
    lent = models.BooleanField(_("lent"), default=False)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("book")
        verbose_name_plural = _("books")
        ordering = ["title", "pk"]

    def __str__(self):
        return self.title
